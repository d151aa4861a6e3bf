"""OpenAI's text API over any `TextEngine`: what requests may say, how answers are written, and the endpoints."""
