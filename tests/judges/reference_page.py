"""The examples of the gateway's reference page for its Python SDK, as they stand there.

Only the ids are arguments, and an answer is returned where the page prints it.
"""

from __future__ import annotations

from typing import Any

from cashfree_pg.api_client import (
    App,
    AppPaymentMethod,
    AuthorizeOrderRequest,
    Card,
    CardEMI,
    CardEMIPaymentMethod,
    CardPaymentMethod,
    Netbanking,
    NetBankingPaymentMethod,
    OrderAuthenticatePaymentRequest,
    PayOrderRequest,
    PayOrderRequestPaymentMethod,
    Upi,
    UPIPaymentMethod,
)

from tests.judges.python_sdk import Cashfree


def fetch_payment(order_id: str, cf_payment_id: str) -> Any:
    """Get Payment by ID."""
    api_response = Cashfree().PGOrderFetchPayment(
        x_api_version="2022-09-01", order_id=order_id, cf_payment_id=cf_payment_id
    )
    return api_response.data


def fetch_payments(order_id: str) -> Any:
    """Get Payments for an Order."""
    api_response = Cashfree().PGOrderFetchPayments(x_api_version="2022-09-01", order_id=order_id)
    return api_response.data


def card_link(payment_session_id: str) -> Any:
    """Order Pay: a card, on the bank's own page."""
    card_pay_request = PayOrderRequest(
        payment_session_id=payment_session_id,
        payment_method=PayOrderRequestPaymentMethod(
            CardPaymentMethod(
                card=Card(
                    channel="link",
                    card_number="4111111111111111",
                    card_expiry_mm="12",
                    card_holder_name="Test",
                    card_cvv="123",
                    card_expiry_yy="25",
                )
            )
        ),
    )
    return _pay(card_pay_request)


def netbanking(payment_session_id: str) -> Any:
    """Order Pay: netbanking."""
    netbanking_request = PayOrderRequest(
        payment_session_id=payment_session_id,
        payment_method=PayOrderRequestPaymentMethod(
            NetBankingPaymentMethod(
                netbanking=Netbanking(channel="link", netbanking_bank_code=3010)
            )
        ),
    )
    return _pay(netbanking_request)


def upi_collect(payment_session_id: str) -> Any:
    """Order Pay: a UPI collect request."""
    upi_pay_request = PayOrderRequest(
        payment_session_id=payment_session_id,
        payment_method=PayOrderRequestPaymentMethod(
            UPIPaymentMethod(upi=Upi(channel="collect", upi_id="testsuccess@gocash"))
        ),
    )
    return _pay(upi_pay_request)


def upi_link(payment_session_id: str) -> Any:
    """Order Pay: UPI by deep links."""
    upi_pay_request = PayOrderRequest(
        payment_session_id=payment_session_id,
        payment_method=PayOrderRequestPaymentMethod(UPIPaymentMethod(upi=Upi(channel="link"))),
    )
    return _pay(upi_pay_request)


def upi_qrcode(payment_session_id: str) -> Any:
    """Order Pay: UPI by a QR code."""
    upi_pay_request = PayOrderRequest(
        payment_session_id=payment_session_id,
        payment_method=PayOrderRequestPaymentMethod(
            UPIPaymentMethod(upi=Upi(channel="qrcode", upi_id="testsuccess@gocash"))
        ),
    )
    return _pay(upi_pay_request)


def wallet(payment_session_id: str) -> Any:
    """Order Pay: a wallet."""
    wallet_pay_request = PayOrderRequest(
        payment_session_id=payment_session_id,
        payment_method=PayOrderRequestPaymentMethod(
            AppPaymentMethod(app=App(channel="link", provider="phonepe", phone="9898989898"))
        ),
    )
    return _pay(wallet_pay_request)


def card_to_save(payment_session_id: str) -> Any:
    """Order Pay: a card that is to be kept."""
    card_pay_request = PayOrderRequest(
        payment_session_id=payment_session_id,
        payment_method=PayOrderRequestPaymentMethod(
            CardPaymentMethod(
                card=Card(
                    channel="link",
                    card_number="4111111111111111",
                    card_expiry_mm="12",
                    card_holder_name="Test",
                    card_cvv="123",
                    card_expiry_yy="25",
                )
            )
        ),
        save_instrument=True,
    )
    return _pay(card_pay_request)


def saved_card(payment_session_id: str) -> Any:
    """Order Pay: a card that was kept."""
    card_pay_request = PayOrderRequest(
        payment_session_id=payment_session_id,
        payment_method=PayOrderRequestPaymentMethod(
            CardPaymentMethod(
                card=Card(
                    channel="link",
                    card_cvv="123",
                    instrument_id="54deabb4-ba45-4a60-9e6a-9c016fe7ab10",
                )
            )
        ),
        save_instrument=True,
    )
    return _pay(card_pay_request)


def card_post(payment_session_id: str) -> Any:
    """Order Pay: a card, with its OTP on the merchant's page."""
    card_pay_request = PayOrderRequest(
        payment_session_id=payment_session_id,
        payment_method=PayOrderRequestPaymentMethod(
            CardPaymentMethod(
                card=Card(
                    channel="post",
                    card_number="4111111111111111",
                    card_expiry_mm="12",
                    card_holder_name="Test",
                    card_cvv="123",
                    card_expiry_yy="25",
                )
            )
        ),
        save_instrument=True,
    )
    return _pay(card_pay_request)


def card_emi(payment_session_id: str) -> Any:
    """Order Pay: a card, in three parts."""
    emi_pay_request = PayOrderRequest(
        payment_session_id=payment_session_id,
        payment_method=PayOrderRequestPaymentMethod(
            CardEMIPaymentMethod(
                emi=CardEMI(
                    channel="post",
                    card_number="4111111111111111",
                    card_expiry_mm="12",
                    card_holder_name="Test",
                    card_cvv="123",
                    card_expiry_yy="25",
                    emi_tenure=3,
                    card_bank_name="hdfc",
                )
            )
        ),
        save_instrument=True,
    )
    return _pay(emi_pay_request)


def authorize(order_id: str) -> Any:
    """Preauthorization."""
    authorize_order_request = AuthorizeOrderRequest(action="CAPTURE", amount=1.0)
    api_response = Cashfree().PGAuthorizeOrder(
        x_api_version="2022-09-01",
        order_id=order_id,
        authorize_order_request=authorize_order_request,
    )
    return api_response.data


def authenticate(cf_payment_id: str) -> Any:
    """Submit or Resend OTP."""
    authenticate_payment_request = OrderAuthenticatePaymentRequest(
        action="SUBMIT_OTP", otp="111000"
    )
    api_response = Cashfree().PGOrderAuthenticatePayment(
        x_api_version="2022-09-01",
        cf_payment_id=cf_payment_id,
        order_authenticate_payment_request=authenticate_payment_request,
    )
    return api_response.data


def _pay(pay_order_request: Any) -> Any:
    api_response = Cashfree().PGPayOrder(
        x_api_version="2022-09-01", pay_order_request=pay_order_request
    )
    return api_response.data
