"""The web demo: trained models in the browser, as `dioscuri demo` serves them."""
