"""One of two processes that serve one model: `python follower.py PORT INDEX`; the first asks."""

import json
import sys
import time

from lm.infer.request import Request, Sampling
from lm.mesh import processes, runtime
from lm.mesh.config import Config as Mesh


def main(port: str, index: str) -> None:
    runtime.settle()
    mesh = Mesh(data=1, tensor=2, coordinator=f"127.0.0.1:{port}", processes=2, process=int(index))
    with processes.joined(mesh):
        from tiny import model, prompts
        core = model("llama").core(mesh, draft=model("llama"), speculate="draft", drafts=2)
        core.start()
        if processes.first():
            core.wait()
            made = {}
            rows = prompts(4, 3, 21, 9, 30)
            requests = [Request(str(i), row, Sampling(max_tokens=6, temperature=0.0,
                                                      ignore_eos=True),
                                lambda event, i=i: made.setdefault(i, []).extend(event.tokens))
                        for i, row in enumerate(rows)]
            for request in requests:
                core.submit(request)
            while not all(request.finish for request in requests):
                time.sleep(0.01)
            core.stop()
            print(json.dumps([made[i] for i in range(len(rows))]), flush=True)
        else:
            core.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
