"""jaxfair: who loses when a network is changed after the fact, and why, in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxfair.curvature.report import GroupReport, group_report

__all__ = ["GroupReport", "group_report"]


def __getattr__(name: str) -> Any:
    # Loaded when first used: importing jaxfair alone does not import JAX.
    if name in __all__:
        from jaxfair.curvature import report

        return getattr(report, name)
    raise AttributeError(f"module 'jaxfair' has no attribute '{name}'")
