"""The web page, one file a tab.

Importing this package switches off every call home of the libraries behind the page. Gradio reads these variables
when it is imported, so this file must not import it.
"""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
