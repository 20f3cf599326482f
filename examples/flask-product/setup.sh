# Makes imserver.yaml with an app, an API key and a secret, and names the receiver of events.
set -e
imserver init --no-chat
cat >> imserver.yaml <<END
    webhook:
      url: http://127.0.0.1:5000/im/events
      secret: "$(openssl rand -hex 32)"
      events: [absent]
END
