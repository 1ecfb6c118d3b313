"""From folders of scans to ``weights/`` and its manifest; nothing else writes there."""
