"""How fast and how large: this package beside what people would use instead, each contender in a process of its own.

`comparison` and `sizes` measure, `report` writes tables; nothing else of the package imports these modules. A contender imports
only what it is made of, so the one in Keras runs in an environment without PyTorch.
"""
