// A headless sale: the bank's OTP is typed on the merchant's own page, wrong at first.
"use strict";

const { newOrder, payByCard, submit, tell } = require("./shop.js");

tell(async (cashfree) => {
  const order = await newOrder(cashfree);
  const paid = await payByCard(cashfree, order);
  const wrong = await submit(cashfree, paid, "999999");
  const right = await submit(cashfree, paid, "111000");
  const payment = (await cashfree.PGOrderFetchPayment(order.order_id, paid.cf_payment_id)).data;
  const { order_status } = (await cashfree.PGFetchOrder(order.order_id)).data;
  return { paid, wrong, right, payment, order_status };
});
