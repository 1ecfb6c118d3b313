"""Start the web page: ``python app.py``."""

from neurovision.serving.hub import load_analyzer
from neurovision.views.ui.page import serve

if __name__ == "__main__":
    serve(load=load_analyzer)
