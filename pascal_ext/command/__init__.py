"""The command ``pascal-ext``."""
