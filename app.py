"""Start the web page: ``python app.py``."""

from neurovision.views.ui.page import serve

if __name__ == "__main__":
    serve()
