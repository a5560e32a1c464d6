from pushing import _hub, _push, _quick_report, _registry  # noqa: F401
