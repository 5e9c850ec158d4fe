"""Floor 1: the load test: what is asked, when it is sent, what comes back. No jax here.

`lengths`, `trace` and `workload` say what is asked and when; `http`, `reply`, `sse` and `answer`
ask it and listen; `server` and `prompts` look at the server and make what it is asked; `drive`
keeps the time; `measure` and `intervals` make numbers of it, `report` and `picture` show them.
"""
