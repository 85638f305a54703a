// What the SDK makes of a webhook: {signature, timestamp, body} in the variable WEBHOOK.
"use strict";

const { tell } = require("./shop.js");

tell(async (cashfree) => {
  const { signature, timestamp, body } = JSON.parse(process.env.WEBHOOK);
  const { type, object } = cashfree.PGVerifyWebhookSignature(signature, body, timestamp);
  return { type, data: object.data };
});
