"""Steps of the table of arrangements, which is of the first steps."""

from typing import Final

STEPS: Final = {
    46: """
    # The folders in which the conversation is, as JSON of their ids; NULL: none. In the row of the
    # conversation 0: the names of the folders of the user, as JSON.
    columns arrangement: folders blob?
    """
}
