"""The demo: real imagery laid out as scenes, and the real job over them."""

from geoscale.demo.run import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
