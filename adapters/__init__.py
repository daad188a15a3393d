"""One subpackage per host framework; the only code of this package that imports any of them.

Installed as ``pascal_ext.adapters``.
"""
