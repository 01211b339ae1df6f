"""Adapt each part of Stable Diffusion to radiographs, or train a small one from scratch: one file a route."""
