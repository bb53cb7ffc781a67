"""Kubernetes manifests in kustomize form, and their check."""
