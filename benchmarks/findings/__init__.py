"""Findings: what a cache of real models says about routing, as a page with figures."""
