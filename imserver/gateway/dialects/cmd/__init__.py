"""The cmd dialect: JSON objects with one command each. The core's own clients
speak it."""

from imserver.gateway.core.core import Core, Parts
from imserver.gateway.dialects.cmd.api import ROUTES
from imserver.gateway.dialects.cmd.wire import ChannelCmdDialect, CmdAnswers, CmdDialect
from imserver.gateway.feature import FeatureRow


def _build(core: Core) -> Parts:
    """Make the answers of the dialect to commands about channels."""
    return Parts((CmdAnswers(core.codec(ChannelCmdDialect())),))


FEATURE = FeatureRow("cmd", _build, (CmdDialect(),), ROUTES, uses=("messages?",))
