"""Compilers of regions, behind one small protocol."""
