"""The tests mirror the packages; tests of the whole server stand in
integration/, pages in browser/."""
