"""Clips, manifests, media decoding and collation. Import the submodules: the light ones then stay light."""
