"""Typed, frozen option sections: how a family declares its options and how raw values become them.

A section is a frozen keyword-only dataclass whose fields are made with `option`. A field without a default is required
in every `.cfg`; one with a default is documented by its `doc`. `build_section` checks types and ranges and names the
nearest known option for a typo.
"""
