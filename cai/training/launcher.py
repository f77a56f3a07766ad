"""What a launcher may ask of a training."""

from __future__ import annotations

from collections.abc import Mapping

from cai.errors import CaiError
from cai.training.zero import check_installed


def check_launch_variables(variables: Mapping[str, str]) -> None:
    """Raise a CaiError if a launcher asks for what a training would leave undone.

    Args:
        variables: What Accelerate puts into the environment of the processes it starts.
    """
    precision = variables.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no":
        raise CaiError(
            f"The launcher's configuration has `mixed_precision: {precision}`, which is not "
            "supported: trained weights are float32, and passes compute in the `dtype` of the "
            "model's "
            'settings. Set `mixed_precision: "no"` there.'
        )
    if is_set(variables, "ACCELERATE_USE_MEGATRON_LM"):
        raise CaiError("Megatron-LM is not supported. Launch with `fsdp2`, `deepspeed` or `ddp`.")
    if is_set(variables, "ACCELERATE_USE_DEEPSPEED"):
        check_installed()
    if not is_set(variables, "ACCELERATE_USE_FSDP"):
        return
    if variables.get("FSDP_VERSION", "2") != "2":
        raise CaiError(
            "The launcher's configuration is for FSDP 1, and only FSDP 2 is supported. Set "
            "`fsdp_version: 2` there, as in pipelines/accelerate/fsdp2.yaml."
        )
    if is_set(variables, "FSDP_OFFLOAD_PARAMS"):
        raise CaiError(
            "The launcher's configuration has `fsdp_offload_params: true`, and offloading is not "
            "supported. Set it to false; `lora_rank` with `ddp` saves more memory."
        )


def is_set(variables: Mapping[str, str], name: str, default: str = "false") -> bool:
    """Return whether Accelerate has switched something on."""
    return variables.get(name, default).lower() in ("true", "1")
