# Starts a mail server that prints mails, the product and imserver. Ctrl-C ends them; so does an end of imserver.
cd "$(dirname "$0")"
[ -e imserver.yaml ] || sh setup.sh
python -m aiosmtpd -n -l 127.0.0.1:8025 &
MAIL=$!
imserver serve &
SERVER=$!
flask run --port 5000 &
trap "kill $MAIL $SERVER $!" EXIT
trap exit INT TERM
wait $SERVER
