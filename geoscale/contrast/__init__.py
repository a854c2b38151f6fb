"""Contrast: what two dates differ in, without a network that was trained for it.

Some numbers need the whole area: means, canonical vectors, a threshold, a shift. They
are found once, in a first pass over places that depend on nothing but the stack, and
stay in the plan. Here is only arithmetic: who reads the places is not known here.
"""
