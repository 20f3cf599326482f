"""The official clients of other servers, unchanged, against ours."""
