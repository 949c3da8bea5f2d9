"""The one place that talks to the Kubernetes API: `api` carries requests, `objects` reads what comes back."""
