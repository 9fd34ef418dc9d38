"""A plugin that cannot be imported."""

raise RuntimeError("this build is for another planet")
