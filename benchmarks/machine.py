"""What a measurement was taken on."""

from cai.pipeline.manifest import environment


def machine() -> dict[str, str]:
    """Return what a run's manifests say of machine and versions."""
    return environment()
