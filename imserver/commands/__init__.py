"""Commands of the command line that reach what is kept: keys and apps. Loaded when one of them runs."""
