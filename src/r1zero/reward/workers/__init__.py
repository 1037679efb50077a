"""Worker processes that can be killed: verdicts and plug-in rewards run there."""
