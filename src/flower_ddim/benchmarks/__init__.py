"""Measures speed and memory of this package beside its alternatives, each contender in a process of its own.

`comparison` and `sizes` measure, and `report` writes tables. The contender in Keras runs in an environment without PyTorch, so a
module of a contender imports only what that contender needs.
"""
