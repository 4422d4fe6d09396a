"""Bundle in, bundle or report out."""
