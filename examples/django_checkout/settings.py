"""Django's settings, as few as it takes. cfflow's own come from the environment."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

# Its error pages print what was posted: never with cards.
DEBUG = False
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or secrets.token_urlsafe(40)
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
TIME_ZONE = "Asia/Kolkata"
ROOT_URLCONF = "views"
MIDDLEWARE = [
    "django.middleware.csrf.CsrfViewMiddleware",
    "views.Trouble",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [Path(__file__).parent],
    }
]

#: Where customers and the gateway reach this shop.
SHOP_URL = os.environ.get("SHOP_URL", "http://127.0.0.1:8080")
