"""What may be said and who may ask: policies, a fictional hazard, scope, the hierarchy of roles."""
