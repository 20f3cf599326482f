"""Programs for maintainers of the project. No package contains them."""
