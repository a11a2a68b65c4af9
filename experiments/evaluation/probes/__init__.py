"""Classifiers of frozen features, learnt for all left-out groups at once on the device."""
