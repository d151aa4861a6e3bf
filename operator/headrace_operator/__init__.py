"""The operator: headrace on Kubernetes. A kopf adapter around the rules that local mode runs too."""
