"""The whole evidence for one machine: unit tests, bit identity, validation and the layer benchmark.

``zmlx evidence`` runs it and leaves a repro capsule of every step.
"""
