"""A GPT of nanoGPT's make, as plain functions: pre-norm blocks, learnt positions, GELU, no dropout, an untied head."""

from typing import Any

import jax
import jax.numpy as jnp

HEAD = 64
"""Numbers of each attention head, as GPT-2 has them."""
EPSILON = 1e-5  # of a layer norm, PyTorch's


def init(vocabulary: int, length: int, width: int, layers: int, seed: int = 0) -> dict[str, Any]:
    """Draw weights with nanoGPT's deviation of 0.02.

    Args:
        vocabulary: number of tokens.
        length: of a sequence, in tokens.
        width: numbers that a token is made of.
        layers: blocks.
        seed: of the weights.
    """
    keys = iter(jax.random.split(jax.random.key(seed), 4 * layers + 3))

    def matrix(rows: int, columns: int, name: str = "kernel") -> dict[str, jax.Array]:
        return {name: 0.02 * jax.random.normal(next(keys), (rows, columns))}

    def affine(rows: int, columns: int) -> dict[str, jax.Array]:
        return matrix(rows, columns) | {"bias": jnp.zeros(columns)}

    def norm() -> dict[str, jax.Array]:
        return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}

    def block() -> dict[str, Any]:
        found = {"norm1": norm(), "attention": affine(width, 3 * width), "projection": affine(width, width)}
        return found | {"norm2": norm(), "expand": affine(width, 4 * width), "contract": affine(4 * width, width)}

    params = {name: matrix(n, width, "embedding") for name, n in (("token", vocabulary), ("position", length))}
    params |= {f"block{i + 1}": block() for i in range(layers)}
    return params | {"norm": norm(), "head": matrix(width, vocabulary)}


def logits(params: Any, tokens: jax.Array) -> jax.Array:
    """Compute logits (n, length, vocabulary) of each next token of sequences (n, length)."""
    x = params["token"]["embedding"][tokens] + params["position"]["embedding"]
    for i in range(sum(name.startswith("block") for name in params)):
        x = _block(params[f"block{i + 1}"], x)
    return _norm(params["norm"], x) @ params["head"]["kernel"]


def _block(params: Any, x: jax.Array) -> jax.Array:
    parts = jnp.split(_affine(params["attention"], _norm(params["norm1"], x)), 3, axis=-1)
    q, k, v = (part.reshape(*part.shape[:-1], -1, HEAD) for part in parts)
    mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
    x = x + _affine(params["projection"], mixed)
    hidden = jax.nn.gelu(_affine(params["expand"], _norm(params["norm2"], x)), approximate=False)
    return x + _affine(params["contract"], hidden)


def _affine(params: Any, x: jax.Array) -> jax.Array:
    return x @ params["kernel"] + params["bias"]


def _norm(params: Any, x: jax.Array) -> jax.Array:
    return jax.nn.standardize(x, epsilon=EPSILON) * params["scale"] + params["bias"]
