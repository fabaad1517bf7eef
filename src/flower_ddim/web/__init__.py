"""A page on which a model generates in the visitor's browser: static files, without a server of its own."""
