"""A stand-in for PyCUDA, which needs a driver: device memory is host memory.

Stricter than a card: what is enqueued runs when the stream is waited for and not before, a call
without a current context fails, and freed memory is filled.
"""
