"""What mlx-lm writes in attention modules: the code that the pattern "attention" knows.

None of this runs. `zmlx.patch.same_code` compares methods with it.
"""

import mlx.core as mx
from mlx_lm.models.base import scaled_dot_product_attention


def plain(self, x, mask=None, cache=None):
    B, L, D = x.shape

    queries, keys, values = self.q_proj(x), self.k_proj(x), self.v_proj(x)

    queries = queries.reshape(B, L, self.n_heads, -1).transpose(0, 2, 1, 3)
    keys = keys.reshape(B, L, self.n_kv_heads, -1).transpose(0, 2, 1, 3)
    values = values.reshape(B, L, self.n_kv_heads, -1).transpose(0, 2, 1, 3)

    if cache is not None:
        queries = self.rope(queries, offset=cache.offset)
        keys = self.rope(keys, offset=cache.offset)
        keys, values = cache.update_and_fetch(keys, values)
    else:
        queries = self.rope(queries)
        keys = self.rope(keys)

    output = scaled_dot_product_attention(
        queries, keys, values, cache=cache, scale=self.scale, mask=mask
    )
    output = output.transpose(0, 2, 1, 3).reshape(B, L, -1)
    return self.o_proj(output)


def head_norms(self, x, mask=None, cache=None):
    B, L, D = x.shape

    queries, keys, values = self.q_proj(x), self.k_proj(x), self.v_proj(x)

    queries = self.q_norm(queries.reshape(B, L, self.n_heads, -1)).transpose(0, 2, 1, 3)
    keys = self.k_norm(keys.reshape(B, L, self.n_kv_heads, -1)).transpose(0, 2, 1, 3)
    values = values.reshape(B, L, self.n_kv_heads, -1).transpose(0, 2, 1, 3)

    if cache is not None:
        queries = self.rope(queries, offset=cache.offset)
        keys = self.rope(keys, offset=cache.offset)
        keys, values = cache.update_and_fetch(keys, values)
    else:
        queries = self.rope(queries)
        keys = self.rope(keys)

    output = scaled_dot_product_attention(
        queries, keys, values, cache=cache, scale=self.scale, mask=mask
    )
    output = output.transpose(0, 2, 1, 3).reshape(B, L, -1)
    return self.o_proj(output)


def optional_head_norms(self, x, mask=None, cache=None):
    B, L, D = x.shape

    queries, keys, values = self.q_proj(x), self.k_proj(x), self.v_proj(x)

    queries = queries.reshape(B, L, self.n_heads, -1)
    keys = keys.reshape(B, L, self.n_kv_heads, -1)

    if self.use_qk_norm:
        queries = self.q_norm(queries)
        keys = self.k_norm(keys)

    queries = queries.transpose(0, 2, 1, 3)
    keys = keys.transpose(0, 2, 1, 3)
    values = values.reshape(B, L, self.n_kv_heads, -1).transpose(0, 2, 1, 3)

    if cache is not None:
        queries = self.rope(queries, offset=cache.offset)
        keys = self.rope(keys, offset=cache.offset)
        keys, values = cache.update_and_fetch(keys, values)
    else:
        queries = self.rope(queries)
        keys = self.rope(keys)

    output = scaled_dot_product_attention(
        queries, keys, values, cache=cache, scale=self.scale, mask=mask
    )
    output = output.transpose(0, 2, 1, 3).reshape(B, L, -1)
    return self.o_proj(output)


def width_norms(self, x, mask=None, cache=None):
    B, L, D = x.shape

    queries, keys, values = self.q_proj(x), self.k_proj(x), self.v_proj(x)
    queries = self.q_norm(queries)
    keys = self.k_norm(keys)

    queries = queries.reshape(B, L, self.n_heads, -1).transpose(0, 2, 1, 3)
    keys = keys.reshape(B, L, self.n_kv_heads, -1).transpose(0, 2, 1, 3)
    values = values.reshape(B, L, self.n_kv_heads, -1).transpose(0, 2, 1, 3)

    if cache is not None:
        queries = self.rope(queries, offset=cache.offset)
        keys = self.rope(keys, offset=cache.offset)
        keys, values = cache.update_and_fetch(keys, values)
    else:
        queries = self.rope(queries)
        keys = self.rope(keys)

    output = scaled_dot_product_attention(
        queries, keys, values, cache=cache, scale=self.scale, mask=mask
    )
    output = output.transpose(0, 2, 1, 3).reshape(B, L, -1)
    return self.o_proj(output)


def short_conv(self, x, mask=None, cache=None):
    BCx = self.in_proj(x)
    B, C, x = mx.split(BCx, 3, axis=-1)
    Bx = B * x
    if mask is not None:
        Bx = mx.where(mask[..., None], Bx, 0)

    if cache is not None:
        if cache[0] is None:
            state = mx.zeros(
                (Bx.shape[0], self.L_cache - 1, self.args.hidden_size),
                dtype=Bx.dtype,
            )
        else:
            state = cache[0]
        Bx = mx.concatenate([state, Bx], axis=1)
        n_keep = self.L_cache - 1
        t = x.shape[1]
        if cache.lengths is not None:
            ends = mx.clip(cache.lengths, 0, t)
            positions = (ends[:, None] + mx.arange(n_keep))[..., None]
            cache[0] = mx.take_along_axis(Bx, positions, axis=1)
        else:
            cache[0] = Bx[:, -n_keep:, :]
        cache.advance(t)
    else:
        Bx = mx.pad(Bx, [(0, 0), (self.L_cache - 1, 0), (0, 0)])

    conv_out = self.conv(Bx)

    y = C * conv_out
    return self.out_proj(y)
