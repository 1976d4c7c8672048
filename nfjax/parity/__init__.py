"""Parity with timm. The only place outside the tests that imports torch and timm."""
