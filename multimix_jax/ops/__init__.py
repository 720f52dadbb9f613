"""Operations that are slow in their usual spelling, each beside that spelling (`*_reference`).

The references define the numbers; the tests compare values and gradients. What each gains is
measured by benchmarks/layers.py, with the figures in docs/performance.md.
"""
