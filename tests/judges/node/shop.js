// A merchant with the official SDK. Its host is fixed in code, and its error reports go to
// its makers: both are set here, and nothing else.
"use strict";

const { CFEnvironment, Cashfree } = require("cashfree-pg");

const CARD = {
  channel: "post",
  card_number: "4111111111111111",
  card_holder_name: "Test",
  card_expiry_mm: "12",
  card_expiry_yy: "30",
  card_cvv: "123",
};

function merchant() {
  const { CASHFREE_CLIENT_ID, CASHFREE_CLIENT_SECRET, CASHFREE_BASE_URL } = process.env;
  const reports = [undefined, undefined, undefined, false];
  const cashfree = new Cashfree(
    CFEnvironment.SANDBOX,
    CASHFREE_CLIENT_ID,
    CASHFREE_CLIENT_SECRET,
    ...reports,
  );
  cashfree.basePath = CASHFREE_BASE_URL;
  return cashfree;
}

async function newOrder(cashfree, fields = {}) {
  const request = {
    order_amount: 170.5,
    order_currency: "INR",
    customer_details: { customer_id: "customer_7", customer_phone: "9908734801" },
    order_meta: { notify_url: process.env.NOTIFY_URL },
    ...fields,
  };
  return (await cashfree.PGCreateOrder(request)).data;
}

async function payByCard(cashfree, order) {
  const { payment_session_id } = order;
  return (await cashfree.PGPayOrder({ payment_session_id, payment_method: { card: CARD } })).data;
}

async function submit(cashfree, paid, otp) {
  const request = { action: "SUBMIT_OTP", otp };
  return (await cashfree.PGOrderAuthenticatePayment(paid.cf_payment_id, request)).data;
}

// What a script saw, as one line of JSON; an answer that the SDK refuses ends it with an error.
function tell(script) {
  script(merchant()).then(
    (seen) => console.log(JSON.stringify(seen)),
    (error) => {
      console.error(error.message, JSON.stringify(error.response && error.response.data));
      process.exitCode = 1;
    },
  );
}

module.exports = { newOrder, payByCard, submit, tell };
