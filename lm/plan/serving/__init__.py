"""Serving: from a model, a load and its limits to chips, replicas and prices. No jax here.

`question` is what is asked; `candidates` lays replicas out and prunes by closed forms (`closed`);
`simulate` drives a scheduler (`schedule`) on a virtual clock (`step`); `size` makes the plan.
`published`, `fit` and `validate` say how far the clock can be trusted.
"""
