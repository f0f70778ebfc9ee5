"""How cost grows with length, batch, depth, vocabulary and padding: S1 to S9.

Each is a set of curves and what is asserted of their shapes. Curves go to a JSON file and, with
matplotlib (extra `bench`), to a plot. What is counted (bytes, equations, programs) is the same on
any machine and always judged; what is timed is judged on an idle machine alone.
"""
