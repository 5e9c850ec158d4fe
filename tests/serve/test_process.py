"""`lm serve` as a person runs it: a process that is signalled while it is busy."""

import re
import signal
import threading
import time

import httpx
import openai
import pytest
from commands import command, place, start, tiny, trained

__all__ = ["command", "place", "start", "tiny", "trained"]


@pytest.fixture
def serving(start, trained):
    """Starts `lm serve` with more flags; returns (process, URL) once it is ready."""
    made = []

    def begin(*flags):
        process = start("serve", f"--run={trained}", "--port=0", "--slots=4", "--budget=16", *flags)
        made.append(process)
        found = re.fullmatch(r"listening on http://(.*):(\d+)\n", process.stdout.readline())
        url = f"http://127.0.0.1:{found[2]}"
        assert re.match(r"ready: run, 16 tokens of context, 4 slots", process.stdout.readline())
        return process, url
    yield begin
    for process in made:
        process.kill()
        process.wait()


def read(url, results):
    """Streams again and again until the server refuses; results: how each stream ended."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=60) as client:
        while True:
            try:
                stream = client.completions.create(model="run", prompt="the", max_tokens=8,
                                                   stream=True, extra_body=dict(ignore_eos=True))
            except openai.APIConnectionError:
                return   # gone, or about to be
            except openai.APIStatusError as error:
                results.append(error.status_code)
                return
            try:
                results.append([c.choices[0].finish_reason for c in stream][-1])
            except (openai.APIError, httpx.HTTPError, IndexError) as error:
                results.append(repr(error))


@pytest.mark.slow
def test_signalled_under_load_no_stream_is_cut(serving):
    process, url = serving()
    results = []
    threads = [threading.Thread(target=read, args=(url, results)) for _ in range(12)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 60
    while results.count("length") < 50:
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(60)
    assert process.wait(60) == 0
    assert set(results) <= {"length", 503}
    _, err = process.communicate()
    lines = [line for line in err.splitlines() if not line.startswith("{")]
    assert all(line.startswith("lm: ending: ") for line in lines), err


@pytest.mark.slow
def test_another_takes_over(serving):
    """Clients that try again at another replica lose nothing."""
    servers = [serving(), serving()]
    done, lost = [], []

    def work(i):
        for n in range(30):
            for attempt in range(4):
                url = servers[(i + attempt) % 2][1]
                with openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
                    try:
                        made = client.completions.create(model="run", prompt="the", max_tokens=8,
                                                         extra_body=dict(ignore_eos=True))
                        assert made.usage.completion_tokens == 8
                        done.append(n)
                        break
                    except (openai.InternalServerError, openai.APIConnectionError):
                        pass
            else:
                lost.append(n)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    while len(done) < 20:
        time.sleep(0.01)
    servers[0][0].send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(120)
    assert servers[0][0].wait(60) == 0
    assert (len(done), lost) == (120, [])


@pytest.mark.slow
def test_interrupted_twice(serving):
    process, url = serving("--shutdown_timeout=600", "--access_log=off", "--host=0.0.0.0")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        stop, errors = threading.Event(), []

        def work():
            while not stop.is_set():
                try:
                    client.completions.create(model="run", prompt="the", max_tokens=12, n=16,
                                              extra_body=dict(ignore_eos=True))
                except openai.APIError as error:
                    errors.append(error)
                    return
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 1)
        stop.set()
        for thread in threads:
            thread.join(30)
    said = process.stderr.read().splitlines()
    assert said[0].startswith("lm: warning: whoever reaches 0.0.0.0 may use this server")
    assert all(line.startswith("lm: ") for line in said)


@pytest.mark.slow
def test_what_cannot_be_served(start, trained, tmp_path):
    (tmp_path / "bad.jinja").write_text("{% for")
    for flags, says in (
            (["--host=203.0.113.7"], "give a --host"), (["--checkpoint=77"], "77"),
            ([f"--chat_template={tmp_path}/bad.jinja"], "chat template"),
            ([f"--chat_template={tmp_path}/none"], "cannot be read"),
            (["--api_key=@/nowhere"], "cannot be read"), (["--access_log=/no/where"], "access_log"),
            (["--slots=0"], "slots")):
        process = start("serve", f"--run={trained}", "--port=0", *flags)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2, err
        assert len(err.splitlines()) == 1
        assert says in err
