"""Forward passes of policy, reference and critic, at the response positions only.

The output head gets only hidden states that predict response tokens: prompts and padding never
become logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from cai.errors import CaiError
from cai.ppo.batch import Episodes, length_sorted
from cai.ppo.math import token_logprobs
from cai.training.processes import ALONE, Processes
from cai.training.sharding import call


class Critic(nn.Module):
    """A backbone with a value head that starts at zero, the mean of normalised scores."""

    def __init__(self, backbone: nn.Module) -> None:
        """Put a value head on a transformers backbone, which the critic then owns."""
        super().__init__()
        config = cast("Any", backbone.config)
        self.backbone = backbone
        self.value_head = nn.Linear(config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, episodes: Episodes) -> Tensor:
        """Return the value of the state before each response token, `(B, T)`; 0 on padding."""
        hidden_ND = _response_hidden(self.backbone, episodes)
        with torch.autocast(hidden_ND.device.type, enabled=False):  # values keep float32's digits
            values_N = self.value_head(hidden_ND.float()).squeeze(-1)
        return _padded(values_N, episodes)


def response_logprobs(
    model: nn.Module, episodes: Episodes, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return log-probability and entropy at each response token, `(B, T)` each, nats; 0 on padding.

    Logits of the causal language model are divided by the sampling `temperature`.
    """
    positions = episodes.response_positions()

    def at_response_tokens(model: nn.Module) -> tuple[Tensor, Tensor]:
        return token_logprobs(
            _response_hidden(cast("Any", model).base_model, episodes),
            episodes.response_ids_BT[positions],
            output_head(model),
            temperature=temperature,
        )

    logprobs_N, entropies_N = call(model, at_response_tokens)
    return _padded(logprobs_N, episodes), _padded(entropies_N, episodes)


def output_head(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the map from last hidden states to logits, with the family's scaling and capping."""
    linear = cast("Any", model).get_output_embeddings()
    config = cast("Any", model).config.get_text_config()
    scale = getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0)
    cap = getattr(config, "final_logit_softcapping", None)

    def head(hidden: Tensor) -> Tensor:
        logits = linear(hidden)
        logits = logits if scale == 1.0 else logits * scale
        return logits if cap is None else cap * torch.tanh(logits / cap)

    return head


@torch.inference_mode()
def check_output_head(model: nn.Module) -> None:
    """Raise a CaiError unless `output_head` computes the model's own logits."""
    language_model = cast("Any", model)
    ids = torch.arange(1, 5, device=language_model.device)[None]
    hidden = language_model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    expected = language_model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(output_head(model)(hidden), expected, rtol=1e-3, atol=1e-3):
        raise CaiError(
            f"PPO cannot train a {type(model).__name__}: its logits are not its output layer "
            "applied to its last hidden states, scaled or soft-capped as config.json says. Use a "
            "model of another architecture."
        )


def without_gradient(
    function: Callable[[Episodes], Tensor],
    episodes: Episodes,
    micro_batch_size: int | None,
    processes: Processes = ALONE,
) -> Tensor:
    """Apply a forward pass to length-sorted micro-batches; return `(B, T)` in the given order.

    Processes share the episodes; all of them get the whole result.
    """
    results_BT = torch.zeros(episodes.response_ids_BT.shape, device=episodes.device)
    times_B1 = torch.zeros((len(episodes), 1), device=episodes.device)
    parts = length_sorted(episodes.lengths_B, micro_batch_size, processes, episodes.device)
    for rows in parts:
        moved = rows.to(episodes.device, non_blocking=True)
        with torch.no_grad():
            results_BT[moved] = function(episodes.select(rows))
        times_B1[moved] = 1
    return processes.sum(results_BT) / processes.sum(times_B1)


def recompute_layers(backbone: nn.Module) -> None:
    """Make every layer recompute its inner states in the backward pass instead of storing them.

    transformers' own switch works in train mode only, which PPO never uses.
    """
    for layer in backbone.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.forward = _recomputed(layer.forward)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def recomputed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (whatever a layer takes)
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return recomputed


def _response_hidden(backbone: nn.Module, episodes: Episodes) -> Tensor:
    """Return the last hidden states that predict the response tokens, `(N, D)`."""
    output = backbone(input_ids=episodes.input_ids_BS(), use_cache=False)
    return output.last_hidden_state[episodes.predicting_positions()]


def _padded(x_N: Tensor, episodes: Episodes) -> Tensor:
    return x_N.new_zeros(episodes.response_ids_BT.shape).index_put(
        episodes.response_positions(), x_N
    )
