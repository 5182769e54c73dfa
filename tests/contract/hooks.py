"""Where webhooks may go depends on the installation, which no schema can say, and nothing that is
made up here may lead to somebody else's machine. So every URL that is one leads to this machine,
to the port of RFC 863, where nobody listens."""

import jsonschema_rs
import schemathesis

HERE = "http://127.0.0.1:9/"
IS_URL = jsonschema_rs.validator_for(
    {"type": "string", "format": "uri", "maxLength": 2048}, validate_formats=True
)


@schemathesis.hook
def map_body(context, body):
    if not isinstance(body, dict):
        return body
    led = {name: HERE for name in ("url", "callbackUrl") if name in body and IS_URL.is_valid(body[name])}
    return {**body, **led}
